"""What a run says, for people and for programs: from the store alone, no model, no llama_cpp."""
