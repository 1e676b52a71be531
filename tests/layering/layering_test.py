#!/usr/bin/env python3
"""The layering check itself: it must find what it is there to find."""
import contextlib
import io
import os
import sys
import tempfile
import unittest
from unittest import mock

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import layering  # noqa: E402


class LayeringTest(unittest.TestCase):
    def check(self, **tree):
        """Problems in a tree of files; a file's name is written with __ for / and _dot_ for a dot."""
        with tempfile.TemporaryDirectory() as root:
            for name, text in tree.items():
                path = os.path.join(root, name.replace("__", "/").replace("_dot_", "."))
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "w", encoding="utf-8") as file:
                    file.write(text)
            output = io.StringIO()
            with mock.patch.object(sys, "argv", ["layering.py", "--root", root]), contextlib.redirect_stdout(output):
                code = layering.main()
            return code, output.getvalue()

    def test_downward_is_fine(self):
        code, _ = self.check(base__a_dot_h="", engine__b_dot_cc='#include "base/a.h"\n#include <vector>\n')
        self.assertEqual(code, 0)

    def test_upward_include_is_found(self):
        code, output = self.check(base__a_dot_h='#include "engine/b.h"\n', engine__b_dot_h="")
        self.assertEqual(code, 1)
        self.assertIn("base/a.h:1: base may not see engine/b.h", output)

    def test_sideways_include_is_found(self):
        code, output = self.check(memory__a_dot_h="", statemachine__b_dot_cc='\n#include "memory/a.h"\n')
        self.assertEqual(code, 1)
        self.assertIn("statemachine/b.cc:2", output)

    def test_transport_sees_only_its_seam(self):
        code, _ = self.check(transport__abi__t_dot_h="", transport__uri_dot_h="", transport__loader_dot_h="",
                             tcp_fallback__x_dot_cc='#include "transport/abi/t.h"\n#include "transport/uri.h"\n')
        self.assertEqual(code, 0)
        code, output = self.check(transport__loader_dot_h="", tcp_fallback__x_dot_cc='#include "transport/loader.h"\n')
        self.assertEqual(code, 1)
        self.assertIn("may not see transport/loader.h", output)

    def test_one_file_of_a_folder_may_be_opened(self):
        code, _ = self.check(engine__control_page_dot_h="", monitor__m_dot_cc='#include "engine/control_page.h"\n')
        self.assertEqual(code, 0)
        code, _ = self.check(engine__source_dot_h="", monitor__m_dot_cc='#include "engine/source.h"\n')
        self.assertEqual(code, 1)

    def test_upward_link_is_found(self):
        code, output = self.check(memory__CMakeLists_dot_txt="pageferry_library(pageferry_memory a.cc LINK pageferry_engine)",
                                  engine__CMakeLists_dot_txt="pageferry_library(pageferry_engine a.cc)")
        self.assertEqual(code, 1)
        self.assertIn("pageferry_memory links pageferry_engine", output)

    def test_monitor_process_reaches_no_data_path_by_any_chain(self):
        code, output = self.check(
            hypervisor__monitor_process__CMakeLists_dot_txt="pageferry_program(pageferry-monitor m.cc LINK pageferry_common)",
            hypervisor__CMakeLists_dot_txt="pageferry_library(pageferry_common a.cc\n  LINK pageferry_engine)",
            engine__CMakeLists_dot_txt="pageferry_library(pageferry_engine a.cc)")
        self.assertEqual(code, 1)
        self.assertIn("pageferry-monitor -> pageferry_common -> pageferry_engine", output)

    def test_folder_without_a_place_is_found(self):
        code, output = self.check(novelty__a_dot_h="")
        self.assertEqual(code, 1)
        self.assertIn("no place in the order", output)


if __name__ == "__main__":
    unittest.main()
