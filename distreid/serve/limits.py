"""What one request, and all of them together, may ask of the service."""

from __future__ import annotations

MAX_HEAD_BYTES = 64 << 10
"""Of a request's line and headers, so of its URL."""
MAX_BODY_BYTES = 64 << 20
"""Of a request with images; of an image the job's own limit of pixels holds too."""
MAX_JSON_BYTES = 1 << 20
MAX_TENSOR_JSON_BYTES = 8 << 20  # of images as numbers in JSON; the binary form takes an eighth
MAX_IMAGES = 64  # of a request
MAX_GROUP_IMAGES = 256  # that are written to the gallery together
MAX_WAITING_IMAGES = 256  # of all requests, sent and not yet answered
MAX_REQUESTS = 128  # that are worked on at once
MAX_TOP = 1000
MAX_KEY = 200  # characters of an Idempotency-Key
MAX_WORDS = 1000  # of one filter
MAX_WORD = 200  # characters of a word
MAX_DIM = 65_536  # of a feature in JSON
MIN_WIDTH, MAX_WIDTH = 16, 2048  # of a scaled picture
FRAME_WIDTH, FRAME_HEIGHT = 1280, 1280  # of a frame in which a box is drawn, at most
MAX_CONNECTIONS = 2000  # also of clients that ask for nothing
HEAD_S = 10.0  # for a request's head to arrive, and a last answer to be read
BODY_S = 30.0  # for a whole body to arrive
ANSWER_S = 60.0  # for an answer to be computed
DRAIN_S = 30  # for running requests after SIGTERM
RETRY_S = 1  # what Retry-After says
