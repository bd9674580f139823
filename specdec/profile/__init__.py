"""What each part of a step costs on this machine, measured by the loop itself, and the speed that follows from it."""
