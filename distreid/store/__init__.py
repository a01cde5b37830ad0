"""The plan of a run, its shards, and the reader that verifies them.

RUN/plan.h5         while the job runs: the rows and what they are computed with
RUN/shards/N.h5     `features` (rows, D), `norm`, `status` (rows,); written aside, renamed
RUN/store.h5        once every shard is there and verified
"""

from distreid.store.feature_store import FeatureStore

__all__ = ["FeatureStore"]
