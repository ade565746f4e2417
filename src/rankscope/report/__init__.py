"""What people see: charts, the page, the model card, the terminal. Computes no statistic."""
