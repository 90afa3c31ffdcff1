"""Money: prices, holds, settlements, and the proof that they are right. docs/money.md tells the rules."""
