"""What is taken for a secret, and what is not."""

import pytest

from callbacks.secret_names import is_secret_option, is_secret_variable, without_named_values, without_passwords

pytestmark = pytest.mark.unit

SECRET_VARIABLES = [
    "PGPASSWORD", "MYSQL_PWD", "HTTPS_PROXY", "http_proxy", "ALL_PROXY", "DATABASE_URL", "REDIS_URL", "MONGODB_URI",
    "SENTRY_DSN", "GITHUB_PAT", "PAT", "PASSPHRASE", "SSH_PASSPHRASE", "GPG_PASSPHRASE", "AWS_SECRET_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "HF_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY_2", "COMET_APIKEY",
    "NEPTUNE_API_TOKEN", "SMTP_PASS", "DB_PASSWD", "SESSION", "COOKIE", "NPM_AUTH", "AZURE_CONNECTION_STRING",
    "GOOGLE_APPLICATION_CREDENTIALS", "SLACK_WEBHOOK_URL", "MY_SECRET", "SERVICE_CREDENTIAL", "TOKEN", "KEY",
    "AUTHORIZATION", "BEARER",
]  # fmt: skip
OTHER_VARIABLES = [
    "PATH", "PYTHONPATH", "PWD", "OLDPWD", "HOME", "SCRATCH", "MONKEY", "KEYBOARD_LAYOUT", "MAX_TOKENS",
    "TOKENIZERS_PARALLELISM", "PAD_TOKEN", "AUTHOR", "HF_HOME", "CUDA_VISIBLE_DEVICES", "COMPASS", "NUM_PASSES",
    "SECRETARY", "TURKEY", "PATIENCE", "HOSTNAME", "MASTER_PORT", "OMP_NUM_THREADS",
]  # fmt: skip
SECRET_OPTIONS = [
    "api_key", "apikey", "apiKey", "x.init_args.password", "db_password", "passwd", "token", "github_token",
    "gitlab_token", "access_token", "refreshToken", "id_token", "hf_token", "authorization", "bearer",
    "credentials", "credential", "headers", "header", "headers.Authorization", "headers.X-Api-Key", "headers.X-Own",
    "headers[0]", "X-Api-Key", "secret", "client_secret", "secret_key", "private_key", "aws_access_key",
    "passphrase", "cookie", "cookies", "basic_auth", "auth", "github_pat", "mysql_pwd", "dsn", "database_url",
    "webhook_url", "connection_string", "wandb_api_key", "ssh_key", "credentials.user",
]  # fmt: skip
OTHER_OPTIONS = [
    "max_tokens", "max_new_tokens", "tokens", "tokenizer", "special_tokens", "pad_token", "eos_token",
    "model.image_token", "tokenizer_path", "split_special_tokens", "token_type", "num_key_value_heads", "key",
    "sort_key", "primary_key", "metric_key", "keyboard", "monkey", "hotkey", "key_variable",
    "model.judge.init_args.key_variable", "api_key_variable", "author", "authors", "path", "patience", "pattern",
    "patch_size", "compass", "bypass", "num_passes", "headers_only", "cookie_policy", "session_length", "secretary",
    "public_key", "base_url", "url", "headers.User-Agent", "headers.Content-Type", "password_length",
    "default_root_dir",
]  # fmt: skip


@pytest.mark.parametrize("name", SECRET_VARIABLES)
def test_variables_with_secrets(name):
    assert is_secret_variable(name)


@pytest.mark.parametrize("name", OTHER_VARIABLES)
def test_variables_without(name):
    assert not is_secret_variable(name)


@pytest.mark.parametrize("name", SECRET_OPTIONS)
def test_options_with_secrets(name):
    assert is_secret_option(name)


@pytest.mark.parametrize("name", OTHER_OPTIONS)
def test_options_without(name):
    assert not is_secret_option(name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pa55@host/a", "https://***@host/a"),
        ("at postgresql://me:p@ss@host:5432/db, now", "at postgresql://***@host:5432/db, now"),
        ("https://ghp_x1@github.com/a.git", "https://***@github.com/a.git"),
        ("no file https:/me:pa55@host/a", "no file https:/***@host/a"),
        ("HTTP://:pa55@host", "HTTP://***@host"),
        ("https://host/v1?api_key=a1&page=2", "https://host/v1?api_key=***&page=2"),
        ("https://host/b?sig=a%2B1", "https://host/b?sig=***"),
        ("redis://me:pa55@a redis://b", "redis://***@a redis://b"),
    ],
)
def test_secrets_of_addresses(text, shown):
    assert without_passwords(text) == shown == without_passwords(shown)


@pytest.mark.parametrize(
    "text",
    [
        "ssh://git@host/a.git",
        "https://host:8000/v1",
        "https://host/users/@me",
        "s3://bucket/a@b:c",
        "me@host: a, b@c",
        "C:/me/a:b@c",
        "https://${oc.env:USER}:${oc.env:PASS}@host",
        "Why? token=a",
        "https://host/?max_tokens=5&key_variable=A",
        "x.y" * 20_000,
    ],
)
def test_texts_without(text):
    assert without_passwords(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("{'save_dir': 'a', 'api_key': 'sk 1'}", "{'save_dir': 'a', 'api_key': ***}"),
        ("--x.password=a1 --y=2", "--x.password=*** --y=2"),
        ("--x.password a1 --y 2", "--x.password *** --y 2"),
        ("Got value: {api_key: a1, b", "Got value: {api_key: ***, b"),
        ("value: {'headers': {'X-Own': 'a 1'}, 'b': 2}", "value: {'headers': ***, 'b': 2}"),
        ("word." * 20_000, "word." * 20_000),
        ("x.api_key holds a secret", "x.api_key holds a secret"),
        ("Authorization: Bearer a1, Accept: b", "Authorization: ***, Accept: b"),
        ("api_key: ${oc.env:KEY}, max_tokens: 5", "api_key: ${oc.env:KEY}, max_tokens: 5"),
    ],
)
def test_named_values(text, shown):
    assert without_named_values(text) == shown
