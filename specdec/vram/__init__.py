"""What a target and a strategy take of a card, item by item, from headers alone; and the split that fits."""
