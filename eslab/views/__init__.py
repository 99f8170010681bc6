"""How things look: plain values in, text or HTML out. Nothing here computes or reads."""
