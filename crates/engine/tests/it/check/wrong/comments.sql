COMMENT ON FEATURE VIEW customer_spent IS 'x';
COMMENT ON TABLE customer_spend IS 'x';
COMMENT ON COLUMN customer_spend.amuont IS 'x';
COMMENT ON COLUMN admission.amount IS 'x';
