CREATE ENTITY customer KEY (customer_id BIGINT);
/* what follows
   /* is nested */
CREATE ENTITY device KEY (device_id);
CREATE ENTITY other KEY (other_id);
