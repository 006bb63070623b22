"""One HTTP endpoint for the house: translates Ollama's and OpenAI's API to the contract and back. Pure."""
