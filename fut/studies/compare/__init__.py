"""Update rules compared on a run's data, paired by order, beside what the order alone does."""
