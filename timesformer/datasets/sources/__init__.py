"""How each dataset finds its clips."""
