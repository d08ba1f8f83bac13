"""What the Python runtime adds around AWS's client, by itself: no node, no function. Run by `tests/it/runtimes.rs` with the folder of
the module as the only argument."""

import sys
import unittest

sys.path.insert(0, sys.argv.pop())
import tinderbox_runtime  # noqa: E402


class Asks:
    """A client's call that fails so many times, in this way, before it has an event."""

    def __init__(self, failures, way=RuntimeError):
        self.failures = failures
        self.way = way
        self.calls = 0

    def __call__(self):
        self.calls += 1
        if self.calls <= self.failures:
            raise self.way(f"attempt {self.calls}")
        return "event"


class FirstConnection(unittest.TestCase):
    def test_it_is_tried_again_until_it_is_taken(self):
        ask = Asks(failures=tinderbox_runtime.ATTEMPTS - 1)
        self.assertEqual(tinderbox_runtime.ask_again(None, RuntimeError("the first"), ask), "event")
        self.assertEqual(ask.calls, tinderbox_runtime.ATTEMPTS)

    def test_what_was_wrong_last_is_said_when_it_never_is(self):
        ask = Asks(failures=1000)
        with self.assertRaisesRegex(RuntimeError, f"attempt {tinderbox_runtime.ATTEMPTS}"):
            tinderbox_runtime.ask_again(None, RuntimeError("the first"), ask)
        self.assertEqual(ask.calls, tinderbox_runtime.ATTEMPTS)

    def test_what_is_no_connection_ends_it(self):
        ask = Asks(failures=1000, way=ValueError)
        with self.assertRaisesRegex(ValueError, "attempt 1$"):
            tinderbox_runtime.ask_again(None, RuntimeError("the first"), ask)
        with self.assertRaisesRegex(RuntimeError, "the first"):
            tinderbox_runtime.ask_again(None, RuntimeError("the first"))


class Layers(unittest.TestCase):
    def test_this_pythons_modules_precede_those_of_the_one_it_stands_in_for(self):
        this = f"/opt/python/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
        other = "/opt/python/lib/python3.9/site-packages"
        folders = tinderbox_runtime.layer_folders
        self.assertEqual(folders("AWS_Lambda_python3.9"), [this, other, "/opt/python"])
        for named in ["", "AWS_Lambda_java21", "AWS_Lambda_python3.9/../.."]:
            self.assertEqual(folders(named), [this, "/opt/python"])


class Generators(unittest.TestCase):
    def test_a_clones_numbers_are_others(self):
        import random
        import uuid

        random.seed(7)
        before = random.getstate()
        self.assertIsNotNone(uuid.getnode())
        self.assertIsNotNone(uuid._node)
        tinderbox_runtime.reseed()
        self.assertNotEqual(random.getstate(), before)
        self.assertIsNone(uuid._node)
        self.assertIsNone(uuid._last_timestamp)


if __name__ == "__main__":
    unittest.main()
