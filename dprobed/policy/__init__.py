"""Who may do what to which process, and what is put into processes by itself.

rights      what a program needs, by its instructions
glob, match which processes are meant
model       policies, and what they decide about a process
protected   processes that nobody may touch
locate, source, parse   TOML files to policies, all that is wrong with them at once
config      dprobed.toml
store       the set in force, and its reload
audit       refusals in the log and in the journal
"""
