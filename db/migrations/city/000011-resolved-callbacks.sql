-- RESOLVED: a person has looked at one that FAILED, and there is nothing to work off.
alter table channel_callbacks
  drop constraint channel_callbacks_state_check,
  add constraint channel_callbacks_state_check check (state in ('KEPT', 'DONE', 'FAILED', 'RESOLVED'));
