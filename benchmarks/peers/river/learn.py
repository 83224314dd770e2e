"""River's online text classifiers, played a stream: see ``playing.py``."""

import sys
from pathlib import Path

from river import compose, feature_extraction, linear_model, naive_bayes, optim

sys.path.insert(0, str(Path(__file__).parents[1]))
import playing


def _of_text(model):
    def start(_):
        return (lambda row: model.predict_one(row.text)), (lambda row: model.learn_one(row.text, row.label))
    return start


def _of_vectors(model):
    def features(row):
        return dict(enumerate(row.vector))

    def start(_):
        return (lambda row: model.predict_one(features(row))), (lambda row: model.learn_one(features(row), row.label))
    return start


def words(n):
    return feature_extraction.BagOfWords(lowercase=True, ngram_range=(1, n))


LEARNERS = {
    "naive_bayes": _of_text(compose.Pipeline(words(2), naive_bayes.MultinomialNB(alpha=0.1))),
    "complement_naive_bayes": _of_text(compose.Pipeline(words(2), naive_bayes.ComplementNB(alpha=0.1))),
    "softmax_on_tfidf": _of_text(compose.Pipeline(feature_extraction.TFIDF(lowercase=True, ngram_range=(1, 2)),
                                                  linear_model.SoftmaxRegression(optim.SGD(5.0), l2=0.0))),
    "softmax_on_embeddings": _of_vectors(linear_model.SoftmaxRegression(optim.SGD(5.0), l2=0.0)),
}

if __name__ == "__main__":
    playing.play(LEARNERS)
