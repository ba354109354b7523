"""The client library, for the commands of ``dprobe`` and for programs of others.

``connection``: requests to a daemon and its reports · ``session``: one process (and its children)
with programs in it · ``launch``: a command that waits until the probes are in · ``programs``:
source files to what is sent · ``errors``: what can fail.
Nothing here prints, or knows of the command line.
"""
