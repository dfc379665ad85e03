//! Recipes, objectives, losses, teachers and the one training loop.
