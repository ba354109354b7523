"""Policies: rights of users over processes, budgets, and auto-inserted programs.

rights      what a program needs, by its instructions
glob, match which processes are meant
model       policies, and what they decide about a process
protected   processes that nobody may probe
locate, source, parse   TOML files to policies, all that is wrong with them at once (errors)
trust       refuses files that other users could have written
config      dprobed.toml
describe    policies and decisions as messages
store       the set in force, and its reload
"""
