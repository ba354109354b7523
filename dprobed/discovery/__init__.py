"""Which processes there are, and which of them are worth a look.

``source``    what a source of process events says, and to whom
``connector`` the kernel says so itself (proc connector, root only)
``polling``   the list of /proc is compared with the last one
``watch``     when each process is looked at: at once, and again until it is settled
``modules``   which modules a process maps, or soon will
"""
