"""Text, tokens and pages: what a run trains on and who is given which part of it.

`corpus` and `works` hold the embedded default text, `tokenizer` turns text into tokens,
`shards` cuts tokens into files addressed by SHA-256, `manifest` lists them, `pages` reads them
back, `assignment` draws pages from seeds, `unigram` and `overlap` measure a text. Only
`pages.PageReader` and `corpus.load_corpus` touch files; nothing here knows a chain or a bucket.
"""
