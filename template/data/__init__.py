"""Text, tokens and pages: the dataset of a run, and the draw of each miner's pages.

`corpus` and `works` hold the embedded default text, `tokenizer` turns text into tokens,
`shards` cuts tokens into files addressed by SHA-256, `manifest` lists the files, `pages` reads
pages, `assignment` draws pages from seeds, `unigram` and `overlap` measure a text. Only
`kept.KeptFiles`, for `pages.PageReader`, and `corpus.load_corpus` touch files. The package is
independent of chain and buckets.
"""
