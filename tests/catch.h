// One include for both Catch2 generations; tests include nothing of Catch2 directly. It comes after the
// headers of the library: in a test CHECK is Catch2's, in the library it is that of src/base/check.h.
#pragma once
#undef CHECK
#if __has_include(<catch2/catch_test_macros.hpp>)
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>
#elif __has_include(<catch2/catch.hpp>)
#include <catch2/catch.hpp>
#else
#include <catch.hpp>
#endif
