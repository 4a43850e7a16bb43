"""Many exports from one file: what of it is not there yet is made, in parallel, and told in a table.

`plan` reads the file, `expansion` multiplies its lists out and `names` fills in the names. `inputs` says what a bundle
depends on, so that one that still stands is left alone. `workers` hands the entries to processes, in which `work` makes
one bundle after the other; `on_ray` hands them to a cluster instead. `leftovers` sweeps up what killed exports left in
model folders, `scratch` what they left among temporary files. `display` shows how it goes, and `batch` puts all this
together.
"""
