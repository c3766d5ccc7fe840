"""The ``adaptrt`` command. Other rooms are imported only inside the verb that needs them."""
