"""How networks are trained and adapted: phases, losses, recipes."""
