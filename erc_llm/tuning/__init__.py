"""Fine-tuning: trains a LoRA adapter on token trees."""
