"""Texts, pictures and recordings as the inputs that a bundle declares; what reads them is imported when used."""
