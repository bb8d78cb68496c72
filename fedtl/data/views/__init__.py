"""How samples look to a model: sizes and channels, domains, normalisation, random views."""
