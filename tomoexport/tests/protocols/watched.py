"""A watchdog for protocol tests: what takes two minutes prints where every thread is, once and again."""

import faulthandler
import unittest

SECONDS = 120


class Watched(unittest.TestCase):
    """A test whose stacks are printed when it, or what comes before all tests of its class, takes too long."""

    @classmethod
    def setUpClass(cls):
        faulthandler.dump_traceback_later(SECONDS, repeat=True)
        super().setUpClass()

    def run(self, result=None):
        """Run it, watched."""
        faulthandler.dump_traceback_later(SECONDS, repeat=True)
        try:
            return super().run(result)
        finally:
            faulthandler.cancel_dump_traceback_later()
