//! (context helper)
