"""Traces: records written to files that other tools read, or to the journal.

session   what `dprobe trace start` begins: takes records, keeps the limits, says what is wrong
shape     how the log of a hit becomes typed fields, and is read again
ctf       records → packets of a CTF 1.8 trace;  metadata: its TSDL;  reader: and back
lines     records → text, JSON lines or the JSON of Chrome's and Perfetto's viewers
journal   records → entries of the systemd journal
store     blocks → files: chunks, metadata before packets, what a full disk means
choose    which records are meant;  stat: what they come to
"""
