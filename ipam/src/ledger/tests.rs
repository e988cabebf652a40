//! Placeholder for the flow tests.
