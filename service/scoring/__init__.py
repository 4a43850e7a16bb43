"""Answers for folders of images without a server, by the same code that a server runs.

plan      which folders: ``[[score]]`` in the file that also says what to export
images    a few image files to records
places    where that happens: in this process, or as tasks on a Ray cluster
job       a whole plan: every folder to a file of JSON lines
"""
