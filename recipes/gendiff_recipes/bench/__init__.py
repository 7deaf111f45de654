"""The benchmark: methods x domains x evaluations x seeds, declared in a file, run resumably, in tables and on a page.

Read in this order: `suite` (what is declared), `parts` (a person's own classes), `cells` (one unit of work), `running`
(which units, by whom, what is kept), `tables` (means and intervals in four forms), `page` (one offline HTML file).
To add a word that a domain or a method may say: a field of `Entry` or `Method`, read in `cells`.
"""
