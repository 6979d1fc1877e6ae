"""Models behind HTTP: the endpoints of OpenAI's interface, and a page to try a model by hand."""
