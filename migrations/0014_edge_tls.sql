-- TLS on the edge: files on the nodes. What a version before this one writes leaves the new columns null, and the edge in plain HTTP.

alter table gateway_setting
    add column tls_certificate_file text check (length(tls_certificate_file) <= 512),
    add column tls_key_file text check (length(tls_key_file) <= 512),
    add column tls_min_version text check (tls_min_version in ('1.2', '1.3')),
    add constraint tls_is_whole_or_absent check (num_nulls(tls_certificate_file, tls_key_file, tls_min_version) in (0, 3));
