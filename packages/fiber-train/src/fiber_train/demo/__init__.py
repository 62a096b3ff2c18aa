"""A local page on which models are asked about images, side by side: `fiber demo`."""
