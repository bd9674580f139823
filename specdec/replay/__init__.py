"""Record the target once, replay any number of strategies on what it said. No llama.cpp is needed to replay."""
