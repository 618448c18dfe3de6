"""One folder of a run -> one self-contained HTML page."""

from robustok.report.page import write_report

__all__ = ["write_report"]
