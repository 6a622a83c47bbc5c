"""What releases of Prefect make of their schema, by newest migration. Made by requirements/structure."""

# ruff: noqa: E501

from __future__ import annotations

# One part on each line: kind, table, name and definition. After `= REVISION` only what changes in that one follows.
STRUCTURES: dict[str, str] = {
    "bad1e352c597": """\
column agent created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column agent id uuid NOT NULL DEFAULT gen_random_uuid()
column agent last_activity_time timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column agent name character varying NOT NULL
column agent updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column agent work_queue_id uuid NOT NULL
column alembic_version version_num character varying(32) NOT NULL
column artifact created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column artifact data json
column artifact description character varying
column artifact flow_run_id uuid
column artifact id uuid NOT NULL DEFAULT gen_random_uuid()
column artifact key character varying
column artifact metadata_ json
column artifact task_run_id uuid
column artifact type character varying
column artifact updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column artifact_collection created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column artifact_collection data json
column artifact_collection description character varying
column artifact_collection flow_run_id uuid
column artifact_collection id uuid NOT NULL DEFAULT gen_random_uuid()
column artifact_collection key character varying NOT NULL
column artifact_collection latest_id uuid NOT NULL
column artifact_collection metadata_ json
column artifact_collection task_run_id uuid
column artifact_collection type character varying
column artifact_collection updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column automation actions jsonb NOT NULL
column automation actions_on_resolve jsonb NOT NULL DEFAULT '[]'::jsonb
column automation actions_on_trigger jsonb NOT NULL DEFAULT '[]'::jsonb
column automation created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column automation description character varying NOT NULL
column automation enabled boolean NOT NULL DEFAULT true
column automation id uuid NOT NULL DEFAULT gen_random_uuid()
column automation name character varying NOT NULL
column automation tags jsonb NOT NULL DEFAULT '[]'::jsonb
column automation trigger jsonb NOT NULL
column automation updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column automation_bucket automation_id uuid NOT NULL
column automation_bucket bucketing_key jsonb NOT NULL
column automation_bucket count integer NOT NULL
column automation_bucket created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column automation_bucket end timestamp with time zone NOT NULL
column automation_bucket id uuid NOT NULL DEFAULT gen_random_uuid()
column automation_bucket last_event jsonb
column automation_bucket last_operation character varying
column automation_bucket start timestamp with time zone NOT NULL
column automation_bucket trigger_id uuid NOT NULL
column automation_bucket triggered_at timestamp with time zone
column automation_bucket updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column automation_event_follower created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column automation_event_follower follower jsonb NOT NULL
column automation_event_follower follower_event_id uuid NOT NULL
column automation_event_follower id uuid NOT NULL DEFAULT gen_random_uuid()
column automation_event_follower leader_event_id uuid NOT NULL
column automation_event_follower received timestamp with time zone NOT NULL
column automation_event_follower scope character varying NOT NULL
column automation_event_follower updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column automation_related_resource automation_id uuid NOT NULL
column automation_related_resource automation_owned_by_resource boolean NOT NULL DEFAULT false
column automation_related_resource created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column automation_related_resource id uuid NOT NULL DEFAULT gen_random_uuid()
column automation_related_resource resource_id character varying
column automation_related_resource updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column block_document block_schema_id uuid NOT NULL
column block_document block_type_id uuid NOT NULL
column block_document block_type_name character varying
column block_document created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column block_document data jsonb NOT NULL DEFAULT '{}'::jsonb
column block_document id uuid NOT NULL DEFAULT gen_random_uuid()
column block_document is_anonymous boolean NOT NULL DEFAULT false
column block_document name character varying NOT NULL
column block_document updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column block_document_reference created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column block_document_reference id uuid NOT NULL DEFAULT gen_random_uuid()
column block_document_reference name character varying NOT NULL
column block_document_reference parent_block_document_id uuid NOT NULL
column block_document_reference reference_block_document_id uuid NOT NULL
column block_document_reference updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column block_schema block_type_id uuid NOT NULL
column block_schema capabilities jsonb NOT NULL DEFAULT '[]'::jsonb
column block_schema checksum character varying NOT NULL
column block_schema created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column block_schema fields jsonb NOT NULL DEFAULT '{}'::jsonb
column block_schema id uuid NOT NULL DEFAULT gen_random_uuid()
column block_schema updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column block_schema version character varying NOT NULL DEFAULT 'non-versioned'::character varying
column block_schema_reference created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column block_schema_reference id uuid NOT NULL DEFAULT gen_random_uuid()
column block_schema_reference name character varying NOT NULL
column block_schema_reference parent_block_schema_id uuid NOT NULL
column block_schema_reference reference_block_schema_id uuid NOT NULL
column block_schema_reference updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column block_type code_example character varying
column block_type created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column block_type description character varying
column block_type documentation_url character varying
column block_type id uuid NOT NULL DEFAULT gen_random_uuid()
column block_type is_protected boolean NOT NULL DEFAULT false
column block_type logo_url character varying
column block_type name character varying NOT NULL
column block_type slug character varying NOT NULL
column block_type updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column composite_trigger_child_firing automation_id uuid NOT NULL
column composite_trigger_child_firing child_fired_at timestamp with time zone
column composite_trigger_child_firing child_firing jsonb NOT NULL
column composite_trigger_child_firing child_firing_id uuid NOT NULL
column composite_trigger_child_firing child_trigger_id uuid NOT NULL
column composite_trigger_child_firing created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column composite_trigger_child_firing id uuid NOT NULL DEFAULT gen_random_uuid()
column composite_trigger_child_firing parent_trigger_id uuid NOT NULL
column composite_trigger_child_firing updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column concurrency_limit active_slots jsonb NOT NULL DEFAULT '[]'::jsonb
column concurrency_limit concurrency_limit integer NOT NULL
column concurrency_limit created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column concurrency_limit id uuid NOT NULL DEFAULT gen_random_uuid()
column concurrency_limit tag character varying NOT NULL
column concurrency_limit updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column concurrency_limit_v2 active boolean NOT NULL
column concurrency_limit_v2 active_slots integer NOT NULL
column concurrency_limit_v2 avg_slot_occupancy_seconds double precision NOT NULL
column concurrency_limit_v2 created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column concurrency_limit_v2 denied_slots integer NOT NULL
column concurrency_limit_v2 id uuid NOT NULL DEFAULT gen_random_uuid()
column concurrency_limit_v2 limit integer NOT NULL
column concurrency_limit_v2 name character varying NOT NULL
column concurrency_limit_v2 slot_decay_per_second double precision NOT NULL
column concurrency_limit_v2 updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column configuration created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column configuration id uuid NOT NULL DEFAULT gen_random_uuid()
column configuration key character varying NOT NULL
column configuration updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column configuration value jsonb NOT NULL
column csrf_token client character varying NOT NULL
column csrf_token created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column csrf_token expiration timestamp with time zone NOT NULL
column csrf_token id uuid NOT NULL DEFAULT gen_random_uuid()
column csrf_token token character varying NOT NULL
column csrf_token updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column deployment concurrency_limit integer
column deployment concurrency_limit_id uuid
column deployment concurrency_options jsonb
column deployment created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column deployment created_by jsonb
column deployment description text
column deployment enforce_parameter_schema boolean NOT NULL DEFAULT false
column deployment entrypoint character varying
column deployment flow_id uuid NOT NULL
column deployment id uuid NOT NULL DEFAULT gen_random_uuid()
column deployment infra_overrides jsonb NOT NULL DEFAULT '{}'::jsonb
column deployment infrastructure_document_id uuid
column deployment labels jsonb
column deployment last_polled timestamp with time zone
column deployment name character varying NOT NULL
column deployment parameter_openapi_schema jsonb
column deployment parameters jsonb NOT NULL DEFAULT '{}'::jsonb
column deployment path character varying
column deployment paused boolean NOT NULL DEFAULT false
column deployment pull_steps jsonb
column deployment status $schema.deployment_status NOT NULL DEFAULT 'NOT_READY'::$schema.deployment_status
column deployment storage_document_id uuid
column deployment tags jsonb NOT NULL DEFAULT '[]'::jsonb
column deployment updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column deployment updated_by jsonb
column deployment version character varying
column deployment version_id uuid
column deployment work_queue_id uuid
column deployment work_queue_name character varying
column deployment_schedule active boolean NOT NULL
column deployment_schedule created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column deployment_schedule deployment_id uuid NOT NULL
column deployment_schedule id uuid NOT NULL DEFAULT gen_random_uuid()
column deployment_schedule max_scheduled_runs integer
column deployment_schedule parameters jsonb NOT NULL DEFAULT '{}'::jsonb
column deployment_schedule schedule jsonb NOT NULL
column deployment_schedule slug character varying
column deployment_schedule updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column deployment_version branch character varying
column deployment_version created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column deployment_version deployment_id uuid NOT NULL
column deployment_version description text
column deployment_version enforce_parameter_schema boolean NOT NULL DEFAULT false
column deployment_version entrypoint character varying
column deployment_version id uuid NOT NULL DEFAULT gen_random_uuid()
column deployment_version infra_overrides jsonb NOT NULL DEFAULT '{}'::jsonb
column deployment_version labels jsonb
column deployment_version parameter_openapi_schema jsonb
column deployment_version parameters jsonb NOT NULL DEFAULT '{}'::jsonb
column deployment_version pull_steps jsonb
column deployment_version tags jsonb NOT NULL DEFAULT '[]'::jsonb
column deployment_version updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column deployment_version version_info jsonb NOT NULL DEFAULT '{}'::jsonb
column deployment_version work_queue_id uuid
column deployment_version work_queue_name character varying
column event_resources created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column event_resources event_id uuid NOT NULL
column event_resources id uuid NOT NULL DEFAULT gen_random_uuid()
column event_resources occurred timestamp with time zone NOT NULL
column event_resources resource json NOT NULL
column event_resources resource_id text NOT NULL
column event_resources resource_role text NOT NULL
column event_resources updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column events created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column events event text NOT NULL
column events follows uuid
column events id uuid NOT NULL DEFAULT gen_random_uuid()
column events occurred timestamp with time zone NOT NULL
column events payload jsonb NOT NULL
column events received timestamp with time zone NOT NULL
column events recorded timestamp with time zone NOT NULL
column events related jsonb NOT NULL DEFAULT '[]'::jsonb
column events related_resource_ids jsonb NOT NULL DEFAULT '[]'::jsonb
column events resource jsonb NOT NULL
column events resource_id text NOT NULL
column events updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column flow created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column flow id uuid NOT NULL DEFAULT gen_random_uuid()
column flow labels jsonb
column flow name character varying NOT NULL
column flow tags jsonb NOT NULL DEFAULT '[]'::jsonb
column flow updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column flow_run auto_scheduled boolean NOT NULL DEFAULT false
column flow_run context jsonb NOT NULL DEFAULT '{}'::jsonb
column flow_run created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column flow_run created_by jsonb
column flow_run deployment_id uuid
column flow_run deployment_version character varying
column flow_run empirical_policy jsonb NOT NULL DEFAULT '{}'::jsonb
column flow_run end_time timestamp with time zone
column flow_run expected_start_time timestamp with time zone
column flow_run flow_id uuid NOT NULL
column flow_run flow_version character varying
column flow_run id uuid NOT NULL DEFAULT gen_random_uuid()
column flow_run idempotency_key character varying
column flow_run infrastructure_document_id uuid
column flow_run infrastructure_pid character varying
column flow_run job_variables jsonb DEFAULT '{}'::jsonb
column flow_run labels jsonb
column flow_run name character varying NOT NULL
column flow_run next_scheduled_start_time timestamp with time zone
column flow_run parameters jsonb NOT NULL DEFAULT '{}'::jsonb
column flow_run parent_task_run_id uuid
column flow_run run_count integer NOT NULL DEFAULT 0
column flow_run start_time timestamp with time zone
column flow_run state_id uuid
column flow_run state_name character varying
column flow_run state_timestamp timestamp with time zone
column flow_run state_type $schema.state_type
column flow_run tags jsonb NOT NULL DEFAULT '[]'::jsonb
column flow_run total_run_time interval NOT NULL DEFAULT '00:00:00'::interval
column flow_run updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column flow_run work_queue_id uuid
column flow_run work_queue_name character varying
column flow_run_input created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column flow_run_input flow_run_id uuid NOT NULL
column flow_run_input id uuid NOT NULL DEFAULT gen_random_uuid()
column flow_run_input key character varying NOT NULL
column flow_run_input sender character varying
column flow_run_input updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column flow_run_input value text NOT NULL
column flow_run_state created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column flow_run_state data jsonb
column flow_run_state flow_run_id uuid NOT NULL
column flow_run_state id uuid NOT NULL DEFAULT gen_random_uuid()
column flow_run_state message character varying
column flow_run_state name character varying NOT NULL
column flow_run_state result_artifact_id uuid
column flow_run_state state_details jsonb NOT NULL DEFAULT '{}'::jsonb
column flow_run_state timestamp timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column flow_run_state type $schema.state_type NOT NULL
column flow_run_state updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column log created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column log flow_run_id uuid
column log id uuid NOT NULL DEFAULT gen_random_uuid()
column log level smallint NOT NULL
column log message text NOT NULL
column log name character varying NOT NULL
column log task_run_id uuid
column log timestamp timestamp with time zone NOT NULL
column log updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column saved_search created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column saved_search filters jsonb NOT NULL DEFAULT '[]'::jsonb
column saved_search id uuid NOT NULL DEFAULT gen_random_uuid()
column saved_search name character varying NOT NULL
column saved_search updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column task_run cache_expiration timestamp with time zone
column task_run cache_key character varying
column task_run created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column task_run dynamic_key character varying NOT NULL
column task_run empirical_policy jsonb NOT NULL DEFAULT '{}'::jsonb
column task_run end_time timestamp with time zone
column task_run expected_start_time timestamp with time zone
column task_run flow_run_id uuid
column task_run flow_run_run_count integer NOT NULL DEFAULT 0
column task_run id uuid NOT NULL DEFAULT gen_random_uuid()
column task_run labels jsonb
column task_run name character varying NOT NULL
column task_run next_scheduled_start_time timestamp with time zone
column task_run run_count integer NOT NULL DEFAULT 0
column task_run start_time timestamp with time zone
column task_run state_id uuid
column task_run state_name character varying
column task_run state_timestamp timestamp with time zone
column task_run state_type $schema.state_type
column task_run tags jsonb NOT NULL DEFAULT '[]'::jsonb
column task_run task_inputs jsonb NOT NULL DEFAULT '{}'::jsonb
column task_run task_key character varying NOT NULL
column task_run task_version character varying
column task_run total_run_time interval NOT NULL DEFAULT '00:00:00'::interval
column task_run updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column task_run_state created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column task_run_state data jsonb
column task_run_state id uuid NOT NULL DEFAULT gen_random_uuid()
column task_run_state message character varying
column task_run_state name character varying NOT NULL
column task_run_state result_artifact_id uuid
column task_run_state state_details jsonb NOT NULL DEFAULT '{}'::jsonb
column task_run_state task_run_id uuid NOT NULL
column task_run_state timestamp timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column task_run_state type $schema.state_type NOT NULL
column task_run_state updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column task_run_state_cache cache_expiration timestamp with time zone
column task_run_state_cache cache_key character varying NOT NULL
column task_run_state_cache created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column task_run_state_cache id uuid NOT NULL DEFAULT gen_random_uuid()
column task_run_state_cache task_run_state_id uuid NOT NULL
column task_run_state_cache updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column variable created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column variable id uuid NOT NULL DEFAULT gen_random_uuid()
column variable name character varying NOT NULL
column variable tags jsonb NOT NULL DEFAULT '[]'::jsonb
column variable updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column variable value jsonb
column work_pool base_job_template jsonb NOT NULL DEFAULT '{}'::jsonb
column work_pool concurrency_limit integer
column work_pool created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column work_pool default_queue_id uuid
column work_pool description character varying
column work_pool id uuid NOT NULL DEFAULT gen_random_uuid()
column work_pool is_paused boolean NOT NULL DEFAULT false
column work_pool last_status_event_id uuid
column work_pool last_transitioned_status_at timestamp with time zone
column work_pool name character varying NOT NULL
column work_pool status $schema.work_pool_status NOT NULL DEFAULT 'NOT_READY'::$schema.work_pool_status
column work_pool storage_configuration jsonb NOT NULL DEFAULT '{}'::jsonb
column work_pool type character varying NOT NULL
column work_pool updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column work_queue concurrency_limit integer
column work_queue created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column work_queue description character varying NOT NULL DEFAULT ''::character varying
column work_queue filter jsonb
column work_queue id uuid NOT NULL DEFAULT gen_random_uuid()
column work_queue is_paused boolean NOT NULL DEFAULT false
column work_queue last_polled timestamp with time zone
column work_queue name character varying NOT NULL
column work_queue priority integer NOT NULL DEFAULT 1
column work_queue status $schema.work_queue_status NOT NULL DEFAULT 'NOT_READY'::$schema.work_queue_status
column work_queue updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column work_queue work_pool_id uuid NOT NULL
column worker created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column worker heartbeat_interval_seconds integer
column worker id uuid NOT NULL DEFAULT gen_random_uuid()
column worker last_heartbeat_time timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column worker name character varying NOT NULL
column worker status $schema.worker_status NOT NULL DEFAULT 'OFFLINE'::$schema.worker_status
column worker updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
column worker work_pool_id uuid NOT NULL
constraint agent fk_agent__work_queue_id__work_queue FOREIGN KEY (work_queue_id) REFERENCES $schema.work_queue(id)
constraint agent pk_agent PRIMARY KEY (id)
constraint agent uq_agent__name UNIQUE (name)
constraint alembic_version alembic_version_pkc PRIMARY KEY (version_num)
constraint artifact pk_artifact PRIMARY KEY (id)
constraint artifact_collection pk_artifact_collection PRIMARY KEY (id)
constraint artifact_collection uq_artifact_collection__key UNIQUE (key)
constraint automation pk_automation PRIMARY KEY (id)
constraint automation_bucket fk_automation_bucket__automation_id__automation FOREIGN KEY (automation_id) REFERENCES $schema.automation(id) ON DELETE CASCADE
constraint automation_bucket pk_automation_bucket PRIMARY KEY (id)
constraint automation_event_follower pk_automation_event_follower PRIMARY KEY (id)
constraint automation_related_resource fk_automation_related_resource__automation_id__automation FOREIGN KEY (automation_id) REFERENCES $schema.automation(id) ON DELETE CASCADE
constraint automation_related_resource pk_automation_related_resource PRIMARY KEY (id)
constraint block_document fk_block__block_schema_id__block_schema FOREIGN KEY (block_schema_id) REFERENCES $schema.block_schema(id) ON DELETE CASCADE
constraint block_document fk_block_document__block_type_id__block_type FOREIGN KEY (block_type_id) REFERENCES $schema.block_type(id) ON DELETE CASCADE
constraint block_document pk_block_document PRIMARY KEY (id)
constraint block_document_reference ck_block_document_reference__ck_block_document_referenc_824f CHECK ((parent_block_document_id <> reference_block_document_id))
constraint block_document_reference fk_block_document_reference__parent_block_document_id___328f FOREIGN KEY (parent_block_document_id) REFERENCES $schema.block_document(id) ON DELETE CASCADE
constraint block_document_reference fk_block_document_reference__reference_block_document_i_5759 FOREIGN KEY (reference_block_document_id) REFERENCES $schema.block_document(id) ON DELETE CASCADE
constraint block_document_reference pk_block_document_reference PRIMARY KEY (id)
constraint block_schema fk_block_schema__block_type_id__block_type FOREIGN KEY (block_type_id) REFERENCES $schema.block_type(id) ON DELETE CASCADE
constraint block_schema pk_block_schema PRIMARY KEY (id)
constraint block_schema_reference fk_block_schema_reference__parent_block_schema_id__block_schema FOREIGN KEY (parent_block_schema_id) REFERENCES $schema.block_schema(id) ON DELETE CASCADE
constraint block_schema_reference fk_block_schema_reference__reference_block_schema_id__b_6e5d FOREIGN KEY (reference_block_schema_id) REFERENCES $schema.block_schema(id) ON DELETE CASCADE
constraint block_schema_reference pk_block_schema_reference PRIMARY KEY (id)
constraint block_type pk_block_type PRIMARY KEY (id)
constraint composite_trigger_child_firing fk_composite_trigger_child_firing__automation_id__automation FOREIGN KEY (automation_id) REFERENCES $schema.automation(id) ON DELETE CASCADE
constraint composite_trigger_child_firing pk_composite_trigger_child_firing PRIMARY KEY (id)
constraint concurrency_limit pk_concurrency_limit PRIMARY KEY (id)
constraint concurrency_limit_v2 pk_concurrency_limit_v2 PRIMARY KEY (id)
constraint concurrency_limit_v2 uq_concurrency_limit_v2__name UNIQUE (name)
constraint configuration pk_configuration PRIMARY KEY (id)
constraint configuration uq_configuration__key UNIQUE (key)
constraint csrf_token pk_csrf_token PRIMARY KEY (id)
constraint csrf_token uq_csrf_token__client UNIQUE (client)
constraint deployment fk_deployment__concurrency_limit_id__concurrency_limit_v2 FOREIGN KEY (concurrency_limit_id) REFERENCES $schema.concurrency_limit_v2(id) ON DELETE SET NULL
constraint deployment fk_deployment__flow_id__flow FOREIGN KEY (flow_id) REFERENCES $schema.flow(id) ON DELETE CASCADE
constraint deployment fk_deployment__infrastructure_document_id__block_document FOREIGN KEY (infrastructure_document_id) REFERENCES $schema.block_document(id) ON DELETE CASCADE
constraint deployment fk_deployment__storage_document_id__block_document FOREIGN KEY (storage_document_id) REFERENCES $schema.block_document(id) ON DELETE CASCADE
constraint deployment fk_deployment__work_queue_id__work_queue FOREIGN KEY (work_queue_id) REFERENCES $schema.work_queue(id) ON DELETE SET NULL
constraint deployment pk_deployment PRIMARY KEY (id)
constraint deployment_schedule fk_deployment_schedule__deployment_id__deployment FOREIGN KEY (deployment_id) REFERENCES $schema.deployment(id) ON DELETE CASCADE
constraint deployment_schedule pk_deployment_schedule PRIMARY KEY (id)
constraint deployment_version fk_deployment_version__deployment_id__deployment FOREIGN KEY (deployment_id) REFERENCES $schema.deployment(id) ON DELETE CASCADE
constraint deployment_version fk_deployment_version__work_queue_id__work_queue FOREIGN KEY (work_queue_id) REFERENCES $schema.work_queue(id) ON DELETE SET NULL
constraint deployment_version pk_deployment_version PRIMARY KEY (id)
constraint event_resources pk_event_resources PRIMARY KEY (id)
constraint events pk_events PRIMARY KEY (id)
constraint flow pk_flow PRIMARY KEY (id)
constraint flow uq_flow__name UNIQUE (name)
constraint flow_run fk_flow_run__flow_id__flow FOREIGN KEY (flow_id) REFERENCES $schema.flow(id) ON DELETE CASCADE
constraint flow_run fk_flow_run__infrastructure_document_id__block_document FOREIGN KEY (infrastructure_document_id) REFERENCES $schema.block_document(id) ON DELETE CASCADE
constraint flow_run fk_flow_run__parent_task_run_id__task_run FOREIGN KEY (parent_task_run_id) REFERENCES $schema.task_run(id) ON DELETE SET NULL
constraint flow_run fk_flow_run__state_id__flow_run_state FOREIGN KEY (state_id) REFERENCES $schema.flow_run_state(id) ON DELETE SET NULL
constraint flow_run fk_flow_run__work_queue_id__work_queue FOREIGN KEY (work_queue_id) REFERENCES $schema.work_queue(id) ON DELETE SET NULL
constraint flow_run pk_flow_run PRIMARY KEY (id)
constraint flow_run_input fk_flow_run_input__flow_run_id__flow_run FOREIGN KEY (flow_run_id) REFERENCES $schema.flow_run(id) ON DELETE CASCADE
constraint flow_run_input pk_flow_run_input PRIMARY KEY (id)
constraint flow_run_input uq_flow_run_input__flow_run_id_key UNIQUE (flow_run_id, key)
constraint flow_run_state fk_flow_run_state__flow_run_id__flow_run FOREIGN KEY (flow_run_id) REFERENCES $schema.flow_run(id) ON DELETE CASCADE
constraint flow_run_state fk_flow_run_state__result_artifact_id__artifact FOREIGN KEY (result_artifact_id) REFERENCES $schema.artifact(id) ON DELETE SET NULL
constraint flow_run_state pk_flow_run_state PRIMARY KEY (id)
constraint log pk_log PRIMARY KEY (id)
constraint saved_search pk_saved_search PRIMARY KEY (id)
constraint saved_search uq_saved_search__name UNIQUE (name)
constraint task_run fk_task_run__flow_run_id__flow_run FOREIGN KEY (flow_run_id) REFERENCES $schema.flow_run(id) ON DELETE CASCADE
constraint task_run pk_task_run PRIMARY KEY (id)
constraint task_run_state fk_task_run_state__result_artifact_id__artifact FOREIGN KEY (result_artifact_id) REFERENCES $schema.artifact(id) ON DELETE SET NULL
constraint task_run_state fk_task_run_state__task_run_id__task_run FOREIGN KEY (task_run_id) REFERENCES $schema.task_run(id) ON DELETE CASCADE
constraint task_run_state pk_task_run_state PRIMARY KEY (id)
constraint task_run_state_cache pk_task_run_state_cache PRIMARY KEY (id)
constraint variable pk_variable PRIMARY KEY (id)
constraint variable uq_variable__name UNIQUE (name)
constraint work_pool fk_work_pool__default_queue_id__work_queue FOREIGN KEY (default_queue_id) REFERENCES $schema.work_queue(id) ON DELETE RESTRICT
constraint work_pool pk_work_pool PRIMARY KEY (id)
constraint work_pool uq_work_pool__name UNIQUE (name)
constraint work_queue fk_work_queue__work_pool_id__work_pool FOREIGN KEY (work_pool_id) REFERENCES $schema.work_pool(id) ON DELETE CASCADE
constraint work_queue pk_work_queue PRIMARY KEY (id)
constraint work_queue uq_work_queue__work_pool_id_name UNIQUE (work_pool_id, name)
constraint worker fk_worker__work_pool_id__work_pool FOREIGN KEY (work_pool_id) REFERENCES $schema.work_pool(id) ON DELETE CASCADE
constraint worker pk_worker PRIMARY KEY (id)
constraint worker uq_worker__work_pool_id_name UNIQUE (work_pool_id, name)
enum  deployment_status 'READY', 'NOT_READY'
enum  state_type 'SCHEDULED', 'PENDING', 'RUNNING', 'COMPLETED', 'FAILED', 'CANCELLED', 'CRASHED', 'PAUSED', 'CANCELLING'
enum  work_pool_status 'READY', 'NOT_READY', 'PAUSED'
enum  work_queue_status 'READY', 'NOT_READY', 'PAUSED'
enum  worker_status 'ONLINE', 'OFFLINE'
index agent ix_agent__updated CREATE INDEX ix_agent__updated ON $schema.agent USING btree (updated)
index agent ix_agent__work_queue_id CREATE INDEX ix_agent__work_queue_id ON $schema.agent USING btree (work_queue_id)
index artifact ix_artifact__flow_run_id CREATE INDEX ix_artifact__flow_run_id ON $schema.artifact USING btree (flow_run_id)
index artifact ix_artifact__key CREATE INDEX ix_artifact__key ON $schema.artifact USING btree (key)
index artifact ix_artifact__key_created_desc CREATE INDEX ix_artifact__key_created_desc ON $schema.artifact USING btree (key, created DESC) INCLUDE (id, updated, type, task_run_id, flow_run_id)
index artifact ix_artifact__task_run_id CREATE INDEX ix_artifact__task_run_id ON $schema.artifact USING btree (task_run_id)
index artifact ix_artifact__updated CREATE INDEX ix_artifact__updated ON $schema.artifact USING btree (updated)
index artifact_collection ix_artifact_collection__key_latest_id CREATE INDEX ix_artifact_collection__key_latest_id ON $schema.artifact_collection USING btree (key, latest_id)
index artifact_collection ix_artifact_collection__updated CREATE INDEX ix_artifact_collection__updated ON $schema.artifact_collection USING btree (updated)
index automation ix_automation__updated CREATE INDEX ix_automation__updated ON $schema.automation USING btree (updated)
index automation_bucket ix_automation_bucket__automation_id__end CREATE INDEX ix_automation_bucket__automation_id__end ON $schema.automation_bucket USING btree (automation_id, "end")
index automation_bucket ix_automation_bucket__updated CREATE INDEX ix_automation_bucket__updated ON $schema.automation_bucket USING btree (updated)
index automation_bucket uq_automation_bucket__automation_id__trigger_id__bucketing_key CREATE UNIQUE INDEX uq_automation_bucket__automation_id__trigger_id__bucketing_key ON $schema.automation_bucket USING btree (automation_id, trigger_id, bucketing_key)
index automation_event_follower ix_ae_follower_scope_leader CREATE INDEX ix_ae_follower_scope_leader ON $schema.automation_event_follower USING btree (scope, leader_event_id)
index automation_event_follower ix_automation_event_follower__leader_event_id CREATE INDEX ix_automation_event_follower__leader_event_id ON $schema.automation_event_follower USING btree (leader_event_id)
index automation_event_follower ix_automation_event_follower__received CREATE INDEX ix_automation_event_follower__received ON $schema.automation_event_follower USING btree (received)
index automation_event_follower ix_automation_event_follower__scope CREATE INDEX ix_automation_event_follower__scope ON $schema.automation_event_follower USING btree (scope)
index automation_event_follower ix_automation_event_follower__updated CREATE INDEX ix_automation_event_follower__updated ON $schema.automation_event_follower USING btree (updated)
index automation_event_follower uq_follower_for_scope CREATE UNIQUE INDEX uq_follower_for_scope ON $schema.automation_event_follower USING btree (scope, follower_event_id)
index automation_related_resource ix_automation_related_resource__resource_id CREATE INDEX ix_automation_related_resource__resource_id ON $schema.automation_related_resource USING btree (resource_id)
index automation_related_resource ix_automation_related_resource__updated CREATE INDEX ix_automation_related_resource__updated ON $schema.automation_related_resource USING btree (updated)
index automation_related_resource uq_automation_related_resource__automation_id__resource_id CREATE UNIQUE INDEX uq_automation_related_resource__automation_id__resource_id ON $schema.automation_related_resource USING btree (automation_id, resource_id)
index block_document ix_block_document__block_type_name__name CREATE INDEX ix_block_document__block_type_name__name ON $schema.block_document USING btree (block_type_name, name)
index block_document ix_block_document__is_anonymous CREATE INDEX ix_block_document__is_anonymous ON $schema.block_document USING btree (is_anonymous)
index block_document ix_block_document__name CREATE INDEX ix_block_document__name ON $schema.block_document USING btree (name)
index block_document ix_block_document__updated CREATE INDEX ix_block_document__updated ON $schema.block_document USING btree (updated)
index block_document trgm_ix_block_document_name CREATE INDEX trgm_ix_block_document_name ON $schema.block_document USING gin (name $extensions.gin_trgm_ops)
index block_document uq_block__type_id_name CREATE UNIQUE INDEX uq_block__type_id_name ON $schema.block_document USING btree (block_type_id, name)
index block_document_reference ix_block_document_reference__updated CREATE INDEX ix_block_document_reference__updated ON $schema.block_document_reference USING btree (updated)
index block_schema ix_block_schema__block_type_id CREATE INDEX ix_block_schema__block_type_id ON $schema.block_schema USING btree (block_type_id)
index block_schema ix_block_schema__capabilities CREATE INDEX ix_block_schema__capabilities ON $schema.block_schema USING gin (capabilities)
index block_schema ix_block_schema__created CREATE INDEX ix_block_schema__created ON $schema.block_schema USING btree (created)
index block_schema ix_block_schema__updated CREATE INDEX ix_block_schema__updated ON $schema.block_schema USING btree (updated)
index block_schema uq_block_schema__checksum_version CREATE UNIQUE INDEX uq_block_schema__checksum_version ON $schema.block_schema USING btree (checksum, version)
index block_schema_reference ix_block_schema_reference__updated CREATE INDEX ix_block_schema_reference__updated ON $schema.block_schema_reference USING btree (updated)
index block_type ix_block_type__updated CREATE INDEX ix_block_type__updated ON $schema.block_type USING btree (updated)
index block_type trgm_ix_block_type_name CREATE INDEX trgm_ix_block_type_name ON $schema.block_type USING gin (name $extensions.gin_trgm_ops)
index block_type uq_block_type__slug CREATE UNIQUE INDEX uq_block_type__slug ON $schema.block_type USING btree (slug)
index composite_trigger_child_firing ix_composite_trigger_child_firing__updated CREATE INDEX ix_composite_trigger_child_firing__updated ON $schema.composite_trigger_child_firing USING btree (updated)
index composite_trigger_child_firing uq_composite_trigger_child_firing__a_id__pt_id__ct__id CREATE UNIQUE INDEX uq_composite_trigger_child_firing__a_id__pt_id__ct__id ON $schema.composite_trigger_child_firing USING btree (automation_id, parent_trigger_id, child_trigger_id)
index concurrency_limit ix_concurrency_limit__updated CREATE INDEX ix_concurrency_limit__updated ON $schema.concurrency_limit USING btree (updated)
index concurrency_limit uq_concurrency_limit__tag CREATE UNIQUE INDEX uq_concurrency_limit__tag ON $schema.concurrency_limit USING btree (tag)
index concurrency_limit_v2 ix_concurrency_limit_v2__updated CREATE INDEX ix_concurrency_limit_v2__updated ON $schema.concurrency_limit_v2 USING btree (updated)
index configuration ix_configuration__key CREATE INDEX ix_configuration__key ON $schema.configuration USING btree (key)
index configuration ix_configuration__updated CREATE INDEX ix_configuration__updated ON $schema.configuration USING btree (updated)
index csrf_token ix_csrf_token__updated CREATE INDEX ix_csrf_token__updated ON $schema.csrf_token USING btree (updated)
index deployment ix_deployment__created CREATE INDEX ix_deployment__created ON $schema.deployment USING btree (created)
index deployment ix_deployment__flow_id CREATE INDEX ix_deployment__flow_id ON $schema.deployment USING btree (flow_id)
index deployment ix_deployment__paused CREATE INDEX ix_deployment__paused ON $schema.deployment USING btree (paused)
index deployment ix_deployment__updated CREATE INDEX ix_deployment__updated ON $schema.deployment USING btree (updated)
index deployment ix_deployment__version_id CREATE INDEX ix_deployment__version_id ON $schema.deployment USING btree (version_id)
index deployment ix_deployment__work_queue_id CREATE INDEX ix_deployment__work_queue_id ON $schema.deployment USING btree (work_queue_id)
index deployment ix_deployment__work_queue_name CREATE INDEX ix_deployment__work_queue_name ON $schema.deployment USING btree (work_queue_name)
index deployment trgm_ix_deployment_name CREATE INDEX trgm_ix_deployment_name ON $schema.deployment USING gin (name $extensions.gin_trgm_ops)
index deployment uq_deployment__flow_id_name CREATE UNIQUE INDEX uq_deployment__flow_id_name ON $schema.deployment USING btree (flow_id, name)
index deployment_schedule ix_deployment_schedule__deployment_id CREATE INDEX ix_deployment_schedule__deployment_id ON $schema.deployment_schedule USING btree (deployment_id)
index deployment_schedule ix_deployment_schedule__deployment_id__slug CREATE UNIQUE INDEX ix_deployment_schedule__deployment_id__slug ON $schema.deployment_schedule USING btree (deployment_id, slug) WHERE (slug IS NOT NULL)
index deployment_schedule ix_deployment_schedule__slug CREATE INDEX ix_deployment_schedule__slug ON $schema.deployment_schedule USING btree (slug)
index deployment_schedule ix_deployment_schedule__updated CREATE INDEX ix_deployment_schedule__updated ON $schema.deployment_schedule USING btree (updated)
index deployment_version ix_deployment_version__deployment_id CREATE INDEX ix_deployment_version__deployment_id ON $schema.deployment_version USING btree (deployment_id)
index deployment_version ix_deployment_version__updated CREATE INDEX ix_deployment_version__updated ON $schema.deployment_version USING btree (updated)
index deployment_version ix_deployment_version__work_queue_id CREATE INDEX ix_deployment_version__work_queue_id ON $schema.deployment_version USING btree (work_queue_id)
index deployment_version ix_deployment_version__work_queue_name CREATE INDEX ix_deployment_version__work_queue_name ON $schema.deployment_version USING btree (work_queue_name)
index deployment_version uq_deployment_version__deployment__branch CREATE UNIQUE INDEX uq_deployment_version__deployment__branch ON $schema.deployment_version USING btree (deployment_id, branch)
index event_resources ix_event_resources__occurred CREATE INDEX ix_event_resources__occurred ON $schema.event_resources USING btree (occurred)
index event_resources ix_event_resources__resource_id__occurred CREATE INDEX ix_event_resources__resource_id__occurred ON $schema.event_resources USING btree (resource_id, occurred)
index event_resources ix_event_resources__updated CREATE INDEX ix_event_resources__updated ON $schema.event_resources USING btree (updated)
index events ix_events__event__id CREATE INDEX ix_events__event__id ON $schema.events USING btree (event, id)
index events ix_events__event_occurred CREATE INDEX ix_events__event_occurred ON $schema.events USING btree (event, occurred)
index events ix_events__event_occurred_id CREATE INDEX ix_events__event_occurred_id ON $schema.events USING btree (event, occurred, id)
index events ix_events__event_resource_id_occurred CREATE INDEX ix_events__event_resource_id_occurred ON $schema.events USING btree (event, resource_id, occurred)
index events ix_events__occurred CREATE INDEX ix_events__occurred ON $schema.events USING btree (occurred)
index events ix_events__occurred_id CREATE INDEX ix_events__occurred_id ON $schema.events USING btree (occurred, id)
index events ix_events__related_gin CREATE INDEX ix_events__related_gin ON $schema.events USING gin (related)
index events ix_events__related_resource_ids_gin CREATE INDEX ix_events__related_resource_ids_gin ON $schema.events USING gin (related_resource_ids)
index events ix_events__updated CREATE INDEX ix_events__updated ON $schema.events USING btree (updated)
index flow ix_flow__created CREATE INDEX ix_flow__created ON $schema.flow USING btree (created)
index flow ix_flow__updated CREATE INDEX ix_flow__updated ON $schema.flow USING btree (updated)
index flow trgm_ix_flow_name CREATE INDEX trgm_ix_flow_name ON $schema.flow USING gin (name $extensions.gin_trgm_ops)
index flow_run ix_flow_run__coalesce_start_time_expected_start_time_asc CREATE INDEX ix_flow_run__coalesce_start_time_expected_start_time_asc ON $schema.flow_run USING btree (COALESCE(start_time, expected_start_time))
index flow_run ix_flow_run__coalesce_start_time_expected_start_time_desc CREATE INDEX ix_flow_run__coalesce_start_time_expected_start_time_desc ON $schema.flow_run USING btree (COALESCE(start_time, expected_start_time) DESC)
index flow_run ix_flow_run__deployment_version CREATE INDEX ix_flow_run__deployment_version ON $schema.flow_run USING btree (deployment_version)
index flow_run ix_flow_run__end_time_desc CREATE INDEX ix_flow_run__end_time_desc ON $schema.flow_run USING btree (end_time DESC)
index flow_run ix_flow_run__expected_start_time_desc CREATE INDEX ix_flow_run__expected_start_time_desc ON $schema.flow_run USING btree (expected_start_time DESC)
index flow_run ix_flow_run__flow_id CREATE INDEX ix_flow_run__flow_id ON $schema.flow_run USING btree (flow_id)
index flow_run ix_flow_run__flow_version CREATE INDEX ix_flow_run__flow_version ON $schema.flow_run USING btree (flow_version)
index flow_run ix_flow_run__infrastructure_document_id CREATE INDEX ix_flow_run__infrastructure_document_id ON $schema.flow_run USING btree (infrastructure_document_id)
index flow_run ix_flow_run__name CREATE INDEX ix_flow_run__name ON $schema.flow_run USING btree (name)
index flow_run ix_flow_run__next_scheduled_start_time_asc CREATE INDEX ix_flow_run__next_scheduled_start_time_asc ON $schema.flow_run USING btree (next_scheduled_start_time)
index flow_run ix_flow_run__parent_task_run_id CREATE INDEX ix_flow_run__parent_task_run_id ON $schema.flow_run USING btree (parent_task_run_id)
index flow_run ix_flow_run__schedule_id_scheduler CREATE INDEX ix_flow_run__schedule_id_scheduler ON $schema.flow_run USING btree (deployment_id, ((created_by ->> 'id'::text)), next_scheduled_start_time) WHERE ((state_type = 'SCHEDULED'::$schema.state_type) AND (auto_scheduled = true))
index flow_run ix_flow_run__scheduler_deployment_id_auto_scheduled_next_schedu CREATE INDEX ix_flow_run__scheduler_deployment_id_auto_scheduled_next_schedu ON $schema.flow_run USING btree (deployment_id, auto_scheduled, next_scheduled_start_time) WHERE (state_type = 'SCHEDULED'::$schema.state_type)
index flow_run ix_flow_run__start_time CREATE INDEX ix_flow_run__start_time ON $schema.flow_run USING btree (start_time)
index flow_run ix_flow_run__state_id CREATE INDEX ix_flow_run__state_id ON $schema.flow_run USING btree (state_id)
index flow_run ix_flow_run__state_name CREATE INDEX ix_flow_run__state_name ON $schema.flow_run USING btree (state_name)
index flow_run ix_flow_run__state_timestamp CREATE INDEX ix_flow_run__state_timestamp ON $schema.flow_run USING btree (state_timestamp)
index flow_run ix_flow_run__state_type CREATE INDEX ix_flow_run__state_type ON $schema.flow_run USING btree (state_type)
index flow_run ix_flow_run__updated CREATE INDEX ix_flow_run__updated ON $schema.flow_run USING btree (updated)
index flow_run ix_flow_run__work_queue_id CREATE INDEX ix_flow_run__work_queue_id ON $schema.flow_run USING btree (work_queue_id)
index flow_run ix_flow_run__work_queue_name CREATE INDEX ix_flow_run__work_queue_name ON $schema.flow_run USING btree (work_queue_name)
index flow_run trgm_ix_flow_run_name CREATE INDEX trgm_ix_flow_run_name ON $schema.flow_run USING gin (name $extensions.gin_trgm_ops)
index flow_run uq_flow_run__flow_id_idempotency_key CREATE UNIQUE INDEX uq_flow_run__flow_id_idempotency_key ON $schema.flow_run USING btree (flow_id, idempotency_key)
index flow_run_input ix_flow_run_input__updated CREATE INDEX ix_flow_run_input__updated ON $schema.flow_run_input USING btree (updated)
index flow_run_state ix_flow_run_state__name CREATE INDEX ix_flow_run_state__name ON $schema.flow_run_state USING btree (name)
index flow_run_state ix_flow_run_state__result_artifact_id CREATE INDEX ix_flow_run_state__result_artifact_id ON $schema.flow_run_state USING btree (result_artifact_id)
index flow_run_state ix_flow_run_state__type CREATE INDEX ix_flow_run_state__type ON $schema.flow_run_state USING btree (type)
index flow_run_state ix_flow_run_state__updated CREATE INDEX ix_flow_run_state__updated ON $schema.flow_run_state USING btree (updated)
index flow_run_state uq_flow_run_state__flow_run_id_timestamp_desc CREATE UNIQUE INDEX uq_flow_run_state__flow_run_id_timestamp_desc ON $schema.flow_run_state USING btree (flow_run_id, "timestamp" DESC)
index log ix_log__flow_run_id CREATE INDEX ix_log__flow_run_id ON $schema.log USING btree (flow_run_id)
index log ix_log__flow_run_id_timestamp CREATE INDEX ix_log__flow_run_id_timestamp ON $schema.log USING btree (flow_run_id, "timestamp")
index log ix_log__level CREATE INDEX ix_log__level ON $schema.log USING btree (level)
index log ix_log__task_run_id CREATE INDEX ix_log__task_run_id ON $schema.log USING btree (task_run_id)
index log ix_log__timestamp CREATE INDEX ix_log__timestamp ON $schema.log USING btree ("timestamp")
index log ix_log__updated CREATE INDEX ix_log__updated ON $schema.log USING btree (updated)
index saved_search ix_saved_search__updated CREATE INDEX ix_saved_search__updated ON $schema.saved_search USING btree (updated)
index task_run ix_task_run__end_time_desc CREATE INDEX ix_task_run__end_time_desc ON $schema.task_run USING btree (end_time DESC)
index task_run ix_task_run__expected_start_time_desc CREATE INDEX ix_task_run__expected_start_time_desc ON $schema.task_run USING btree (expected_start_time DESC)
index task_run ix_task_run__flow_run_id CREATE INDEX ix_task_run__flow_run_id ON $schema.task_run USING btree (flow_run_id)
index task_run ix_task_run__name CREATE INDEX ix_task_run__name ON $schema.task_run USING btree (name)
index task_run ix_task_run__next_scheduled_start_time_asc CREATE INDEX ix_task_run__next_scheduled_start_time_asc ON $schema.task_run USING btree (next_scheduled_start_time)
index task_run ix_task_run__start_time CREATE INDEX ix_task_run__start_time ON $schema.task_run USING btree (start_time)
index task_run ix_task_run__state_id CREATE INDEX ix_task_run__state_id ON $schema.task_run USING btree (state_id)
index task_run ix_task_run__state_name CREATE INDEX ix_task_run__state_name ON $schema.task_run USING btree (state_name)
index task_run ix_task_run__state_timestamp CREATE INDEX ix_task_run__state_timestamp ON $schema.task_run USING btree (state_timestamp)
index task_run ix_task_run__state_type CREATE INDEX ix_task_run__state_type ON $schema.task_run USING btree (state_type)
index task_run ix_task_run__state_type_start_time CREATE INDEX ix_task_run__state_type_start_time ON $schema.task_run USING btree (state_type, start_time)
index task_run ix_task_run__updated CREATE INDEX ix_task_run__updated ON $schema.task_run USING btree (updated)
index task_run trgm_ix_task_run_name CREATE INDEX trgm_ix_task_run_name ON $schema.task_run USING gin (name $extensions.gin_trgm_ops)
index task_run uq_task_run__flow_run_id_task_key_dynamic_key CREATE UNIQUE INDEX uq_task_run__flow_run_id_task_key_dynamic_key ON $schema.task_run USING btree (flow_run_id, task_key, dynamic_key)
index task_run_state ix_task_run_state__name CREATE INDEX ix_task_run_state__name ON $schema.task_run_state USING btree (name)
index task_run_state ix_task_run_state__result_artifact_id CREATE INDEX ix_task_run_state__result_artifact_id ON $schema.task_run_state USING btree (result_artifact_id)
index task_run_state ix_task_run_state__type CREATE INDEX ix_task_run_state__type ON $schema.task_run_state USING btree (type)
index task_run_state ix_task_run_state__updated CREATE INDEX ix_task_run_state__updated ON $schema.task_run_state USING btree (updated)
index task_run_state uq_task_run_state__task_run_id_timestamp_desc CREATE UNIQUE INDEX uq_task_run_state__task_run_id_timestamp_desc ON $schema.task_run_state USING btree (task_run_id, "timestamp" DESC)
index task_run_state_cache ix_task_run_state_cache__cache_key_created_desc CREATE INDEX ix_task_run_state_cache__cache_key_created_desc ON $schema.task_run_state_cache USING btree (cache_key, created DESC)
index task_run_state_cache ix_task_run_state_cache__updated CREATE INDEX ix_task_run_state_cache__updated ON $schema.task_run_state_cache USING btree (updated)
index variable ix_variable__updated CREATE INDEX ix_variable__updated ON $schema.variable USING btree (updated)
index work_pool ix_work_pool__type CREATE INDEX ix_work_pool__type ON $schema.work_pool USING btree (type)
index work_pool ix_work_pool__updated CREATE INDEX ix_work_pool__updated ON $schema.work_pool USING btree (updated)
index work_queue ix_work_queue__updated CREATE INDEX ix_work_queue__updated ON $schema.work_queue USING btree (updated)
index work_queue ix_work_queue__work_pool_id CREATE INDEX ix_work_queue__work_pool_id ON $schema.work_queue USING btree (work_pool_id)
index work_queue ix_work_queue__work_pool_id_priority CREATE INDEX ix_work_queue__work_pool_id_priority ON $schema.work_queue USING btree (work_pool_id, priority)
index work_queue trgm_ix_work_queue_name CREATE INDEX trgm_ix_work_queue_name ON $schema.work_queue USING gin (name $extensions.gin_trgm_ops)
index worker ix_worker__updated CREATE INDEX ix_worker__updated ON $schema.worker USING btree (updated)
index worker ix_worker__work_pool_id CREATE INDEX ix_worker__work_pool_id ON $schema.worker USING btree (work_pool_id)
index worker ix_worker__work_pool_id_last_heartbeat_time CREATE INDEX ix_worker__work_pool_id_last_heartbeat_time ON $schema.worker USING btree (work_pool_id, last_heartbeat_time)
table  agent TABLE
table  alembic_version TABLE
table  artifact TABLE
table  artifact_collection TABLE
table  automation TABLE
table  automation_bucket TABLE
table  automation_event_follower TABLE
table  automation_related_resource TABLE
table  block_document TABLE
table  block_document_reference TABLE
table  block_schema TABLE
table  block_schema_reference TABLE
table  block_type TABLE
table  composite_trigger_child_firing TABLE
table  concurrency_limit TABLE
table  concurrency_limit_v2 TABLE
table  configuration TABLE
table  csrf_token TABLE
table  deployment TABLE
table  deployment_schedule TABLE
table  deployment_version TABLE
table  event_resources TABLE
table  events TABLE
table  flow TABLE
table  flow_run TABLE
table  flow_run_input TABLE
table  flow_run_state TABLE
table  log TABLE
table  saved_search TABLE
table  task_run TABLE
table  task_run_state TABLE
table  task_run_state_cache TABLE
table  variable TABLE
table  work_pool TABLE
table  work_queue TABLE
table  worker TABLE
""",
    "d4a7e1c93f52": """\
= bad1e352c597
+ index event_resources ix_event_resources__event_id CREATE INDEX ix_event_resources__event_id ON $schema.event_resources USING btree (event_id)
+ index flow_run ix_flow_run__deployment_id CREATE INDEX ix_flow_run__deployment_id ON $schema.flow_run USING btree (deployment_id)
+ index flow_run ix_flow_run__state_type_coalesce_start_time CREATE INDEX ix_flow_run__state_type_coalesce_start_time ON $schema.flow_run USING btree (state_type, COALESCE(start_time, expected_start_time))
""",
    "91e2b8f3d6a4": """\
= d4a7e1c93f52
+ column automation_held_event automation_id uuid NOT NULL
+ column automation_held_event bucketing_key jsonb NOT NULL DEFAULT '[]'::jsonb
+ column automation_held_event created timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
+ column automation_held_event event_id uuid NOT NULL
+ column automation_held_event id uuid NOT NULL DEFAULT gen_random_uuid()
+ column automation_held_event occurred timestamp with time zone NOT NULL
+ column automation_held_event trigger_id uuid NOT NULL
+ column automation_held_event updated timestamp with time zone NOT NULL DEFAULT CURRENT_TIMESTAMP
+ constraint automation_held_event fk_automation_held_event__automation_id__automation FOREIGN KEY (automation_id) REFERENCES $schema.automation(id) ON DELETE CASCADE
+ constraint automation_held_event pk_automation_held_event PRIMARY KEY (id)
+ index automation_held_event ix_automation_held_event__trigger_key_occurred CREATE INDEX ix_automation_held_event__trigger_key_occurred ON $schema.automation_held_event USING btree (automation_id, trigger_id, bucketing_key, occurred, event_id)
+ index automation_held_event ix_automation_held_event__updated CREATE INDEX ix_automation_held_event__updated ON $schema.automation_held_event USING btree (updated)
+ index automation_held_event uq_automation_held_event__trigger_key_event CREATE UNIQUE INDEX uq_automation_held_event__trigger_key_event ON $schema.automation_held_event USING btree (automation_id, trigger_id, bucketing_key, event_id)
+ table  automation_held_event TABLE
""",
}
