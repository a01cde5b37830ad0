"""Runs to a gallery that grows, is searched exactly or fast, and forgets what must be forgotten.

G/gallery.json      the gallery as it is: one generation, replaced as a whole, never edited
G/generations/…     the same text, a file for each generation that somebody may still read
G/readers/…         who reads which
G/runs/…            runs that were added by copy; others are referred to
G/rows/…            of each run: which rows the gallery has, who and where they are
G/index/…           of each run: codes that make search fast; can be made anew
G/removed/…         which rows are hidden, one file for each generation that hid some
"""
