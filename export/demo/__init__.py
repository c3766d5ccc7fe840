"""A folder with a page that shows a bundle in browsers: the page that npm built, the bundle, samples to try."""
