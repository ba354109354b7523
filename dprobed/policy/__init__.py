"""Who may do what to which process, and what is put into processes by itself.

rights      what a program needs, by its instructions
glob, match which processes are meant
model       policies, and what they decide about a process
protected   processes that nobody may touch
locate, source, parse   TOML files to policies, all that is wrong with them at once (errors)
trust       files that others could have written are not relied on
config      dprobed.toml
describe    policies and decisions as messages
store       the set in force, and its reload
"""
