"""Metrics, one a file: functions of features, pixels or tokens, which know of no network, file or process."""
