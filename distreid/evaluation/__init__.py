"""Features with labels to CMC, mAP, mINP, thresholds and intervals."""
