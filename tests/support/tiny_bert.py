"""A tiny random BERT in a local directory, and a corpus that it can learn: what real encoders do, in milliseconds."""

from pathlib import Path

import numpy as np

_TOPICS = {
    "card": "card pin chip plastic blocked contactless expired wallet",
    "cash": "cash machine withdraw notes swallowed dispenser bills coins",
    "loan": "loan interest instalment borrow mortgage repay rate lender",
    "login": "login password reset username locked email code device",
    "travel": "travel abroad hotel flight currency airport border trip",
}
_FILLER = ["please", "help", "me", "with", "my", "today", "what", "is", "the", "how", "can", "not", "it", "again"]
WORDS = sorted({word for words in _TOPICS.values() for word in words.split()} | set(_FILLER))


def make(directory: Path, *, seed: int = 0, dropout: float = 0.0) -> Path:
    """Write config, random weights and a tokenizer, as ``save_pretrained`` lays them out."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    directory.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (directory / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(vocabulary)}, do_lower_case=True)
    tokenizer.save_pretrained(directory)
    torch.manual_seed(seed)
    config = BertConfig(vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=64, max_position_embeddings=64, hidden_dropout_prob=dropout,
                        attention_probs_dropout_prob=dropout)
    BertModel(config).save_pretrained(directory)
    return directory


def loop_file(name: str, base: Path | str) -> str:
    """Return the text of a loop that stands on such an encoder."""
    return (f'name = "{name}"\nbase = "{base}"\nmax_tokens = 32\n[feedback.correction]\nevent = "Ticket Resolved"\n'
            'label = "properties.queue"\n')


def corpus(n: int, *, seed: int = 0, hard: float = 0.6) -> tuple[list[str], list[str]]:
    """Return texts and their labels; ``hard`` is the share of words that say nothing about the label."""
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    for _ in range(n):
        label = str(rng.choice(sorted(_TOPICS)))
        own = _TOPICS[label].split()
        words = [str(rng.choice(_FILLER if rng.random() < hard else own)) for _ in range(int(rng.integers(3, 14)))]
        texts.append(" ".join([*words, str(rng.choice(own))]))
        labels.append(label)
    return texts, labels
