//! Harness: starts real servers and real binaries for the black-box tests.
