"""Text, tokens and pages: the dataset of a run, and the draw of each miner's pages.

`corpus` and `works` hold the embedded default text, `tokenizer` turns text into tokens, `shards`
cuts tokens into shards of segments in memory and `folder` on disk, `manifest` lists the shards,
`source` says where segments come from, `pages` reads pages, `assignment` draws pages from seeds,
`unigram` and `overlap` measure a text. Only `kept.KeptFiles`, for `pages.PageReader`, `folder`,
`tokenizer.read_tokenizer` and `corpus.load_corpus` touch files. The package is independent of chain
and buckets.
"""
