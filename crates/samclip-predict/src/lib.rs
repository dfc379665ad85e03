//! The library verbs: image in, answer out. Roles, prompts, output formats.
