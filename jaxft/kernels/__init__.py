"""Pure numerical functions with one contract each: attention, cross entropy, projections, dropout."""
