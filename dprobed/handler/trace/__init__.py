"""Traces: records written to files that other tools read, or to the journal.

session   what `dprobe trace start` begins: takes records, keeps the limits, says what is wrong
writer    its thread: rotation, limits, what a full disk means
shape     how the log of a hit becomes typed fields, and is read again
ctf       records → packets of a CTF 1.8 trace;  metadata: its TSDL;  reader: and back
lines     records → text, JSON lines or the JSON of Chrome's and Perfetto's viewers
journal   records → entries of the systemd journal
store     blocks → files: chunks, metadata before packets, all of a block or nothing
rewrite   records that were read → CTF
choose    which records are meant;  stat: what they come to
"""
