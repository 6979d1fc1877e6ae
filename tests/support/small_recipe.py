"""A small bidirectional recipe on real text, without the directory of its data."""

RECIPE = """
name: small
model: {preset: encoder-tiny, embed_dim: 32, num_heads: 2, mlp_dim: 64, num_layers: 2, max_length: 32, dropout: 0.1}
tokenizer: {train: {vocab_size: 600}}
streams:
  task:
    source: {jsonl: classification/sentence_polarity_train.jsonl, limit: 400}
    objective: {kind: sequence_classification, length: 32}
    batch_size: 8
  replay:
    source: {jsonl: lm/state_union_train.jsonl, limit: 3}
    objective: {kind: masked_lm, length: 32}
    batch_size: 4
evaluation:
  reviews:
    stream: task
    source: {jsonl: classification/sentence_polarity_dev.jsonl, limit: 100}
  retained:
    stream: replay
    source: {jsonl: lm/state_union_heldout.jsonl, limit: 1}
    batch_size: 64
optimizer: {learning_rate: 1e-3}
training: {steps: 60, log_every: 5, evaluate_every: 20, seed: 3}
checkpoint: {every: 10, keep: 2}
"""
