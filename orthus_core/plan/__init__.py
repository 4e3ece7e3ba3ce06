"""Plan before work begins: what this machine has, and what drawing or training needs."""
